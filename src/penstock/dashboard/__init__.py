"""
The page that shows a table changing live.
"""
