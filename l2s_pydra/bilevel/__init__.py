"""The two-level optimisation of Learn2Synth."""
