"""The embedded base and its judges: the recipe that trains them and the weights it made."""
