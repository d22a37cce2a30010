"""placeholder"""

def render(found, result):
    return ""
