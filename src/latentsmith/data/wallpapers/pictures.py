"""The photographs: where each lies, who made it, under which licence, and its SHA-256.

As the packages' own copyright files say (Debian 12; /usr/share/doc/PACKAGE/copyright). What is
drawn and not photographed is left out.
"""

from dataclasses import dataclass

LOMIRI, MATE = "lomiri-wallpapers-16.04", "mate-backgrounds"
PACKAGES = (LOMIRI, MATE)
BACKGROUNDS = "usr/share/backgrounds"
EVERY = 4
"""One photograph in so many is held out."""


@dataclass(frozen=True)
class Picture:
    """One photograph.

    Attributes:
        package: of Debian, that it comes with.
        file: its name there.
        author, licence: who made it, and what it may be used for.
        sha256: of the file.
    """

    package: str
    file: str
    author: str
    licence: str
    sha256: str

    @property
    def name(self) -> str:
        """Short name, as of its small copy."""
        return self.file.removesuffix(".jpg").split("_by_")[0].lower()

    @property
    def path(self) -> str:
        """Where it lies, below the root."""
        place = f"{BACKGROUNDS}/mate/nature" if self.package == MATE else BACKGROUNDS
        return f"{place}/{self.file}"


PICTURES = (
    Picture(LOMIRI, "aitzgorri_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC BY 4.0",
            "66268e7b48f8854d36a28765fac6e23ec1aee251daa6da1f64715f201020ad36"),
    Picture(LOMIRI, "analogpattern_by_Peter_Nerlich.jpg", "Peter Nerlich", "CC BY-SA 4.0",
            "15372488a192b2be2eafc67bd3ed31cbfca19abe3929e925607fcbc9cb4d4202"),
    Picture(MATE, "Aqua.jpg", "Charles Barbin", "GPL 2+",
            "5c30118205982da441bf7e6a1ada636a8a0be879408140b3148280c665ed6bce"),
    Picture(MATE, "Blinds.jpg", "Lennart Poettering, Andrea Cimitan", "GPL 2+",
            "f7aac0dcc2e06d0491643e84df3da1d9db7c4610f58806a880d56e074799f600"),
    Picture(LOMIRI, "Bridge_by_Sander_Klootwijk.jpg", "Sander Klootwijk", "CC BY-SA 4.0",
            "bd86b081f9975e2b83527f71e49b9271a8ab40885428395969d9f7d834d7f050"),
    Picture(LOMIRI, "Dragonfly_by_Bolly.jpg", "Bolly", "CC BY-SA 4.0",
            "af5af17841009732def24b09bb1e669a1b09d2b4bdeee7812c371101c30d2bb3"),
    Picture(MATE, "Dune.jpg", "Marco Cogoni, Hylke Bons", "GPL 2+",
            "8a67c2cb0be8c46b70c237311a4fa4d2b4ac7d39568135384787801fa5cc9a91"),
    Picture(LOMIRI, "free_by_Peter_Nerlich.jpg", "Peter Nerlich", "CC BY-SA 4.0",
            "85a5453c2fed514c75973016f3d862aca62eb7ca087618822469274ac1092373"),
    Picture(MATE, "FreshFlower.jpg", "Jens Ansorg", "GPL 2+",
            "972b0a0c4e5e3fa93f4f244fc84bc64b121a5eac3aaa5856f1308c1f38a02f8e"),
    Picture(LOMIRI, "friends_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC BY 4.0",
            "cc40e313c74e421edffe3403def413c16878ce14661cce7ec5915baeab35538d"),
    Picture(MATE, "Garden.jpg", "Charles Barbin", "GPL 2+",
            "d3095ee09d425ef23d27155412136cf14fc3c9af76ca58b452f55e23da324e78"),
    Picture(MATE, "GreenMeadow.jpg", "Timothy Schellhase, Lapo Calamandrei", "GPL 2+",
            "8fa0de0aa4089f7319c9fb7a6d006d4cab6023e8c8853731557cff53567b4832"),
    Picture(LOMIRI, "greentock_by_Peter_Nerlich.jpg", "Peter Nerlich", "CC BY-SA 4.0",
            "e7b20e2db9dcd6e2b278ca55873c2110b35d89cd38b04d0b18728726888e6889"),
    Picture(MATE, "LadyBird.jpg", "Charles Barbin", "GPL 2+",
            "e35a9a4126ef969c90b29c038058c5a575a20eadd84106a37bf1fa9931e7b61d"),
    Picture(LOMIRI, "life_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC BY 4.0",
            "4c119350ead80201fe256850c3d316309ddfb4bdf10b235ce982dcde0c667c05"),
    Picture(LOMIRI, "picosdeeuropa_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC BY 4.0",
            "414d0072b2f6f2c555deafeaef6e45c4fed6fa9ad26eba6560ca8803959cf97a"),
    Picture(LOMIRI, "Picture_0B_by_freespace.jpg", "Trevor Freespace", "CC BY 4.0",
            "c8c0ab18e48d9e0419fe42881112137f3afafc27dfddc29ec3a6d54c56d225ad"),
    Picture(LOMIRI, "Picture_1A_by_freespace.jpg", "Trevor Freespace", "CC BY 4.0",
            "89e86af38d04daaef975665dc2127e9fa76f0fd68f4eea105a2d0ae3390b010b"),
    Picture(MATE, "RainDrops.jpg", "blackcombwhistler07", "GPL 2+",
            "3e4ea9671c28c90a86cf67b3db9daf18c4741587c596333a7529ca589aaa0c16"),
    Picture(LOMIRI, "seeding_by_Clements_Engelhardt.jpg", "Clemens Engelhardt", "CC0 1.0",
            "a5634d1ab5e41a3568e92d4a894a500c92b891f9ff734e50bd224d6e185a605f"),
    Picture(MATE, "Storm.jpg", "Sergey Nazarov", "GPL 2+",
            "77ca53077831d3237f73393a91fc879158abc046d852941c26e90de336356957"),
    Picture(LOMIRI, "sunset_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC BY 4.0",
            "474dab6a4b9f94dc76c29dfe30e9f5db4af0fd2e33fe5d695f8152b371efca18"),
    Picture(MATE, "TwoWings.jpg", "Charles Barbin, Hylke Bons", "GPL 2+",
            "665e5abf8a5399070a91a9a8e455fe071e5b61697ff78fdeda4e9843ef545aeb"),
    Picture(LOMIRI, "Wine_by_Jakkub_Mede.jpg", "Jakub Mede", "CC BY 4.0",
            "d2e96e6d4da40dd804b3d0ce295e94de04a2d7d9b6785d42cd9d92ba58bced74"),
    Picture(MATE, "Wood.jpg", "Jean-François Fortin Tam", "GPL 2+",
            "19c78500ac00a622e19907ab9cc7d06d46fe08c4a6142759a84195696150ec07"),
    Picture(MATE, "YellowFlower.jpg", "Charles Barbin", "GPL 2+",
            "254da96256acb7add685679775a04d1e4a5bc8cd13e5a5a3d61351ce198a5306"),
)  # fmt: skip
"""All of them, by name."""


def held_out(name: str) -> bool:
    """Whether the photograph of that name is for validation: every fourth of `PICTURES`."""
    return [picture.name for picture in PICTURES].index(name) % EVERY == EVERY - 1
