"""Many prompts: ``map``, ``sweep`` and the journal of what is done."""
