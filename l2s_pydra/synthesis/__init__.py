"""The generator G: synthetic images from label maps, nothing learned."""
