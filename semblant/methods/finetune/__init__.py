"""Methods that change weights of the base, reversibly."""
