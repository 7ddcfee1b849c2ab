"""The five reversible ways to touch a base, ready to use."""
