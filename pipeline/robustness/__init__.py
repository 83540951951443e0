"""Attacks and defences, measured."""
