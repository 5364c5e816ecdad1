"""What is promised to users, by topic."""
