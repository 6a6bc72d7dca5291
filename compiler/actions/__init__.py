"""Every kind of inexact rewrite: where it could be done, what it saves, how it is carried out."""
