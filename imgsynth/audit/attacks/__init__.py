"""Membership attacks, one file each. They share one interface, so that controls run through the very same code."""
