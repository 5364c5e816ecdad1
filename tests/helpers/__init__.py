"""What tests share: clients, servers, proxies, recordings."""
