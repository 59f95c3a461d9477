"""Small BIDS data sets that ship with the software."""
