"""CTF, aberrations and magnification of particles with known poses, refined against a reference."""
