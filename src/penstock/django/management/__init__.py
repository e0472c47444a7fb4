"""
What `manage.py` finds.
"""
