"""Choosing and judging how lists are ordered again."""
