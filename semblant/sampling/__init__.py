"""From noise to pictures and back: one sampling loop, solvers, inversion."""
