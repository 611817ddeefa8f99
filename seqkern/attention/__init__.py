"""Scaled dot-product attention and its layers."""
