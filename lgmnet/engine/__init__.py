"""How a run proceeds: loop, evaluation, saving."""
