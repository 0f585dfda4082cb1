"""Multilinear components: latent functions of the modes, contracted by a core."""
