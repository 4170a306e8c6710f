"""How alike a frozen encoder's features of the same 3D place are across views (VEGA-3D's 3D awareness)."""
