"""
Which shapes a change may concern.
"""
