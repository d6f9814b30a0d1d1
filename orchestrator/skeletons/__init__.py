"""Packages that add a method or a task, written out as a start for one's own. The templates lie beside this module."""
