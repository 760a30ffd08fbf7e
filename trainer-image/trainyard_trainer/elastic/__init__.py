"""Process groups that change while training goes on.

`loop` sees one `Crew`; what stands behind it (today: a stop at a step boundary and a broadcast from
a survivor) may become faster without the loop's knowing.
"""
