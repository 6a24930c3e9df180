"""Tables and figures for papers, from the files that test.py writes."""
