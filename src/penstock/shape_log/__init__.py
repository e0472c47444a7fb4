"""
The ordered record of a shape: a tail in memory, a settled part in files.
"""
