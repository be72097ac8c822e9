"""Counterseal: governed execution for AI agents. Import the submodule that you need; nothing is loaded here."""
