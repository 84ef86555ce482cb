"""Backups: made, proven, rotated, restored; and everything as readable lines, out and in."""
