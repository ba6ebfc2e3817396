"""A deployment under load and faults: what scripts/soak is made of."""
