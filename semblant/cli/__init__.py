"""The command line, made from the settings that methods declare."""
