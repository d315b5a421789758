"""Tests of the emoji world."""
