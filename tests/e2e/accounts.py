"""What the tests' sites know: two ExamJoint accounts, a Proview account of each kind, and their candidates."""

# Of "horse bcrypt" and "horse yescrypt".
BCRYPT = "$2y$05$3mFC35/GjLoMXhFEl8b0bOzCdLqacDjMgpsUIOtasAHAr5rBdb8By"
YESCRYPT = "$y$j9T$abcdefghijklmnop$5Mtp/XKBuwuaWOTj5fdEM9cu3aFHGb0poab8B5ihfP7"

CONF = """
[roster]
hash = sha512crypt
timezone = Europe/Berlin

[examjoint acme]
client_id = acme-id
client_secret = acme-secret-new
client_secret_previous = acme-secret-old

[examjoint globex]
client_id = globex-id
client_secret = globex-secret

[proview token]
path_token = token-0123456789abcdef
path_token_previous = token-fedcba9876543210

[proview header]
header_name = X-Proview-Secret
header_secret = header-secret
header_secret_previous = header-secret-old

[proview basic]
basic_user = talview
basic_password = basic-password
basic_password_previous = basic-password-old

[proview all]
path_token = all-token-0123456789
header_name = X-Proview-Secret
header_secret = all-header
basic_user = talview
basic_password = all-basic

[proview open]
callback_open = yes

[fields]
0 = id
1 = password

[fields mail-exam]
1 = email
2 = password

[fields identity-exam]
0 = matriculation

[fields both-exam]
0 = id
1 = email

[examjoint globex fields]
5 = id
6 = password
"""


def rosters():
    """acme's and globex's candidates; both have an id 1001."""
    acme = """id,email,name,password,photo,about,data,exam,opens,closes,matriculation
1001,ada@example.org,Ada,horse 1001,https://example.org/a.jpg,about Ada,"{""group"":""A"",""n"":[1,null]}",,,,M-1
1002,Bob@Example.org,Bob,horse 1002,,,,exam-1,,,M-2
1003,,,horse 1003,,,,exam-1,2020-01-01T00:00:00Z,2020-01-02T00:00:00Z,
1004,,,horse 1004,,,,exam-1,2099-01-01 09:00,2099-01-02 09:00,
1005,,,horse 1005,,,,,,,
1006,,\u00c9l\u00e8ve \u5b66\u751f,\u5bc6\u7801 p\u00e4ss,,,,,,,
2001,,,horse 2001,,,,,,,
2002,,,horse 2002,,,,,,,
2003,,,horse 2003,,,,,,,
"""
    hashed = "id,password_hash\n3001,%s\n3002,%s\n" % (BCRYPT, YESCRYPT)
    globex = "id,password,name\n1001,globex horse,Another Ada\n"
    return (("acme", acme), ("acme", hashed), ("globex", globex))
