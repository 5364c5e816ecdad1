"""The truth about our prompts: what is submitted, how it is doing, what it left."""
