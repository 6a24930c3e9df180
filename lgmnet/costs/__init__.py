"""The measured cost of networks and runs."""
