"""The same numbers sooner, or in less memory."""
