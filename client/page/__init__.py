"""A web page on which one classifies pictures with one or two served models."""
