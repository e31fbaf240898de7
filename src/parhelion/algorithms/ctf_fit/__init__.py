"""Fitting the CTF to power spectra of micrographs and movies."""
