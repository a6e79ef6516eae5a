"""Train a candidate, package it, evaluate the package against the champion, register it."""
