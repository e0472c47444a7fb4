"""
The site.
"""
