"""lamer_graph"""
