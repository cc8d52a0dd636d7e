"""The mark of a generated picture that machines read: an XMP packet with IPTC's properties. Standard library only.

`Iptc4xmpExt:DigitalSourceType` says that a trained model made the picture (IPTC NewsCodes, digitalsourcetype);
`AISystemUsed` and `AISystemVersionUsed` name the program (IPTC Photo Metadata Standard 2025.1). The same kind of picture
gets the same text from the same Darkroom, so that equal pictures stay equal files. A file without text chunks carries
Darkroom's own JSON in the packet too, in a namespace of its own. Packets are without padding (XMP specification, part 1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from darkroom import __version__

XMP = "XML:com.adobe.xmp"
"""The keyword of a PNG's text chunk with an XMP packet (XMP specification, part 3), and the packet's name among texts."""
GENERATED, COMPOSITE = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
"""The kinds of source: made by a model alone, and with a picture in it that somebody gave."""
SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_OWN = "urn:darkroom:picture#"
_HEAD = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
_RDF = '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
_TAIL = '</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
_SOURCE = re.compile(r"cv\.iptc\.org/newscodes/digitalsourcetype/([A-Za-z]+)")
_PROPERTY = re.compile(r"<darkroom:([a-z]+)>([^<]*)</darkroom:\1>")


def write_packet(source: str, version: str = __version__) -> str:
    """The packet of a picture whose source is GENERATED or COMPOSITE, by Darkroom of that version."""
    properties = {
        "Iptc4xmpExt:DigitalSourceType": SOURCES + source,
        "Iptc4xmpExt:AISystemUsed": "Darkroom",
        "Iptc4xmpExt:AISystemVersionUsed": version,
        "xmp:CreatorTool": f"Darkroom {version}",
    }
    namespaces = {"Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/", "xmp": "http://ns.adobe.com/xap/1.0/"}
    return f"{_HEAD}{_RDF}{_describe(properties, namespaces)}{_TAIL}"


def find_source(packet: str) -> str | None:
    """The kind of source that a packet of any program names, the last part of its address; None without one."""
    found = _SOURCE.search(packet)
    return found and found[1]


def is_own(packet: str) -> bool:
    """Whether a Darkroom, of any version, has written a packet and nothing has changed it since."""
    version = re.search(r"<Iptc4xmpExt:AISystemVersionUsed>([^<]*)<", packet)
    return version is not None and packet == write_packet(find_source(packet) or "", version[1])


def add_own(packet: str, texts: Mapping[str, str]) -> str:
    """A packet, or an empty text, with Darkroom's own texts (JSON in ASCII) by keyword: lower-case letters."""
    if not texts:
        return packet
    own = _describe({f"darkroom:{keyword}": text for keyword, text in texts.items()}, {"darkroom": _OWN})
    before, end, after = (packet or f"{_HEAD}{_RDF}{_TAIL}").rpartition("</rdf:RDF>")
    return f"{before}{own}{end}{after}"


def split_own(packet: str) -> tuple[str, dict[str, str]]:
    """The packet as it was before `add_own`, and the texts that were added; as it is with none where there are none.

    The packet is searched and not parsed as XML: it comes from anybody.
    """
    from html import unescape

    texts = {found[1]: unescape(found[2]) for found in _PROPERTY.finditer(packet)}
    rest = packet.replace(_describe({f"darkroom:{key}": text for key, text in texts.items()}, {"darkroom": _OWN}), "")
    return ("" if rest == f"{_HEAD}{_RDF}{_TAIL}" else rest), texts


def _describe(properties: Mapping[str, str], namespaces: Mapping[str, str]) -> str:
    declared = "".join(f' xmlns:{prefix}="{address}"' for prefix, address in namespaces.items())
    elements = "".join(f"<{name}>{_escape(text)}</{name}>" for name, text in properties.items())
    return f'<rdf:Description rdf:about=""{declared}>{elements}</rdf:Description>'


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
