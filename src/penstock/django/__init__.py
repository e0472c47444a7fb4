"""
The Django app: settings, `manage.py penstock`, system checks, and shapes below the site's own users.
"""
