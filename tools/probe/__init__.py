"""All frozen probes that the data at hand allow, for several models, in one table.

__main__  the command         corpora   which corpora have which labels
runs      one probe, a run    table     scores with intervals, as Markdown and JSON
picture   weights over layers
"""
