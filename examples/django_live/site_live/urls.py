"""
The site's pages.
"""

from board import views
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

urlpatterns = [
    path("", views.index, name="index"),
    path("add", views.add, name="add"),
    path("toggle/<int:number>", views.toggle, name="toggle"),
    path("login", LoginView.as_view(template_name="board/login.html", next_page="index"), name="login"),
    path("logout", LogoutView.as_view(next_page="index"), name="logout"),
]
