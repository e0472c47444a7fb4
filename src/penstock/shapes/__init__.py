"""
What a shape is, and where in its log we are: definition, handle, offset, and what is asked of it and answered. Pure.
"""
