"""
The site, and its shapes below /sync.
"""

import os

from django.core.asgi import get_asgi_application

from penstock.django.asgi import mount

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_live.settings")
application = mount(get_asgi_application())
