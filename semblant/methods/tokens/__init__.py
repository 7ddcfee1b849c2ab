"""Methods that learn words and leave every weight as it was."""
