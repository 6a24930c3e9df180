"""Parts that two or more networks share."""
