"""Finished runs → what a reader sees: tables, sentences, figures, pages."""
