"""What is asked of the state of an optimizer, and done with it: its memory, its shardings, and taking it over."""
