"""Rationale extraction (RE) and its distillation (REKD): one trial, and a cluster full of them."""
