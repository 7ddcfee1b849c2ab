"""One training loop over learners, their losses, and concepts on disk."""
