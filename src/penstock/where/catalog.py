"""
What Postgres's own catalog says about types, casts, operators and functions, as far as conditions can meet them.

The choice of an operator depends on all operators of its name, also on those that we cannot evaluate: a literal that
Postgres would take for a `timetz` must not become a `time` because we know of no `timetz`. So the rows stand here whole,
for every type that a literal or a column may have, and are the same from Postgres 14 to 18 but for session-dependent
functions and casts between integers and bytea, which are not offered.

The lists have one entry a name; further lines of it are indented. An argument list that begins with a comma has no left
operand. Pure data.
"""

from __future__ import annotations

from typing import Final

# name:oid:array oid:category, with an exclamation mark when the type is the preferred one of its category.
TYPES: Final = """
bool:16:1000:B! bytea:17:1001:U char:18:1002:Z name:19:1003:S int8:20:1016:N int2:21:1005:N int4:23:1007:N
text:25:1009:S! oid:26:1028:N! json:114:199:U xml:142:143:U cidr:650:651:I float4:700:1021:N float8:701:1022:N!
money:790:791:N inet:869:1041:I! bpchar:1042:1014:S varchar:1043:1015:S date:1082:1182:D time:1083:1183:D
timestamp:1114:1115:D timestamptz:1184:1185:D! interval:1186:1187:T! timetz:1266:1270:D bit:1560:1561:V
varbit:1562:1563:V! numeric:1700:1231:N uuid:2950:2951:U jsonb:3802:3807:U
"""

# source, then target:context where the context is i(mplicit), a(ssignment) or e(xplicit).
CASTS: Final = """
bit int4:e int8:e varbit:i
bool bpchar:a int4:e text:a varchar:a
bpchar char:a name:i text:i varchar:i xml:e
char bpchar:a int4:e text:i varchar:a
cidr bpchar:a inet:i text:a varchar:a
date timestamp:i timestamptz:i
float4 float8:i int2:a int4:a int8:a numeric:a
float8 float4:a int2:a int4:a int8:a numeric:a
inet bpchar:a cidr:a text:a varchar:a
int2 float4:i float8:i int4:i int8:i numeric:i oid:i
int4 bit:e bool:e char:e float4:i float8:i int2:a int8:i money:a numeric:i oid:i
int8 bit:e float4:i float8:i int2:a int4:a money:a numeric:i oid:i
interval time:a
json jsonb:a
jsonb bool:e float4:e float8:e int2:e int4:e int8:e json:a numeric:e
money numeric:a
name bpchar:a text:i varchar:a
numeric float4:i float8:i int2:a int4:a int8:a money:a
oid int4:a int8:a
text bpchar:i char:a name:i varchar:i xml:e
time interval:i timetz:i
timestamp date:a time:a timestamptz:i
timestamptz date:a time:a timestamp:a timetz:a
timetz time:a
varbit bit:i
varchar bpchar:i char:a name:i text:i xml:e
xml bpchar:a text:a varchar:a
"""

OPERATORS: Final = """
= anyarray,anyarray>bool anyenum,anyenum>bool bit,bit>bool bool,bool>bool bpchar,bpchar>bool bytea,bytea>bool
  char,char>bool date,date>bool date,timestamp>bool date,timestamptz>bool float4,float4>bool float4,float8>bool
  float8,float4>bool float8,float8>bool inet,inet>bool int2,int2>bool int2,int4>bool int2,int8>bool
  int4,int2>bool int4,int4>bool int4,int8>bool int8,int2>bool int8,int4>bool int8,int8>bool
  interval,interval>bool jsonb,jsonb>bool money,money>bool name,name>bool name,text>bool numeric,numeric>bool
  oid,oid>bool record,record>bool text,name>bool text,text>bool time,time>bool timestamp,date>bool
  timestamp,timestamp>bool timestamp,timestamptz>bool timestamptz,date>bool timestamptz,timestamp>bool
  timestamptz,timestamptz>bool timetz,timetz>bool uuid,uuid>bool varbit,varbit>bool
<> anyarray,anyarray>bool anyenum,anyenum>bool bit,bit>bool bool,bool>bool bpchar,bpchar>bool bytea,bytea>bool
  char,char>bool date,date>bool date,timestamp>bool date,timestamptz>bool float4,float4>bool float4,float8>bool
  float8,float4>bool float8,float8>bool inet,inet>bool int2,int2>bool int2,int4>bool int2,int8>bool
  int4,int2>bool int4,int4>bool int4,int8>bool int8,int2>bool int8,int4>bool int8,int8>bool
  interval,interval>bool jsonb,jsonb>bool money,money>bool name,name>bool name,text>bool numeric,numeric>bool
  oid,oid>bool record,record>bool text,name>bool text,text>bool time,time>bool timestamp,date>bool
  timestamp,timestamp>bool timestamp,timestamptz>bool timestamptz,date>bool timestamptz,timestamp>bool
  timestamptz,timestamptz>bool timetz,timetz>bool uuid,uuid>bool varbit,varbit>bool
< anyarray,anyarray>bool anyenum,anyenum>bool bit,bit>bool bool,bool>bool bpchar,bpchar>bool bytea,bytea>bool
  char,char>bool date,date>bool date,timestamp>bool date,timestamptz>bool float4,float4>bool float4,float8>bool
  float8,float4>bool float8,float8>bool inet,inet>bool int2,int2>bool int2,int4>bool int2,int8>bool
  int4,int2>bool int4,int4>bool int4,int8>bool int8,int2>bool int8,int4>bool int8,int8>bool
  interval,interval>bool jsonb,jsonb>bool money,money>bool name,name>bool name,text>bool numeric,numeric>bool
  oid,oid>bool record,record>bool text,name>bool text,text>bool time,time>bool timestamp,date>bool
  timestamp,timestamp>bool timestamp,timestamptz>bool timestamptz,date>bool timestamptz,timestamp>bool
  timestamptz,timestamptz>bool timetz,timetz>bool uuid,uuid>bool varbit,varbit>bool
> anyarray,anyarray>bool anyenum,anyenum>bool bit,bit>bool bool,bool>bool bpchar,bpchar>bool bytea,bytea>bool
  char,char>bool date,date>bool date,timestamp>bool date,timestamptz>bool float4,float4>bool float4,float8>bool
  float8,float4>bool float8,float8>bool inet,inet>bool int2,int2>bool int2,int4>bool int2,int8>bool
  int4,int2>bool int4,int4>bool int4,int8>bool int8,int2>bool int8,int4>bool int8,int8>bool
  interval,interval>bool jsonb,jsonb>bool money,money>bool name,name>bool name,text>bool numeric,numeric>bool
  oid,oid>bool record,record>bool text,name>bool text,text>bool time,time>bool timestamp,date>bool
  timestamp,timestamp>bool timestamp,timestamptz>bool timestamptz,date>bool timestamptz,timestamp>bool
  timestamptz,timestamptz>bool timetz,timetz>bool uuid,uuid>bool varbit,varbit>bool
<= anyarray,anyarray>bool anyenum,anyenum>bool bit,bit>bool bool,bool>bool bpchar,bpchar>bool bytea,bytea>bool
  char,char>bool date,date>bool date,timestamp>bool date,timestamptz>bool float4,float4>bool float4,float8>bool
  float8,float4>bool float8,float8>bool inet,inet>bool int2,int2>bool int2,int4>bool int2,int8>bool
  int4,int2>bool int4,int4>bool int4,int8>bool int8,int2>bool int8,int4>bool int8,int8>bool
  interval,interval>bool jsonb,jsonb>bool money,money>bool name,name>bool name,text>bool numeric,numeric>bool
  oid,oid>bool record,record>bool text,name>bool text,text>bool time,time>bool timestamp,date>bool
  timestamp,timestamp>bool timestamp,timestamptz>bool timestamptz,date>bool timestamptz,timestamp>bool
  timestamptz,timestamptz>bool timetz,timetz>bool uuid,uuid>bool varbit,varbit>bool
>= anyarray,anyarray>bool anyenum,anyenum>bool bit,bit>bool bool,bool>bool bpchar,bpchar>bool bytea,bytea>bool
  char,char>bool date,date>bool date,timestamp>bool date,timestamptz>bool float4,float4>bool float4,float8>bool
  float8,float4>bool float8,float8>bool inet,inet>bool int2,int2>bool int2,int4>bool int2,int8>bool
  int4,int2>bool int4,int4>bool int4,int8>bool int8,int2>bool int8,int4>bool int8,int8>bool
  interval,interval>bool jsonb,jsonb>bool money,money>bool name,name>bool name,text>bool numeric,numeric>bool
  oid,oid>bool record,record>bool text,name>bool text,text>bool time,time>bool timestamp,date>bool
  timestamp,timestamp>bool timestamp,timestamptz>bool timestamptz,date>bool timestamptz,timestamp>bool
  timestamptz,timestamptz>bool timetz,timetz>bool uuid,uuid>bool varbit,varbit>bool
+ ,float4>float4 ,float8>float8 ,int2>int2 ,int4>int4 ,int8>int8 ,numeric>numeric date,int4>date
  date,interval>timestamp date,time>timestamp date,timetz>timestamptz float4,float4>float4 float4,float8>float8
  float8,float4>float8 float8,float8>float8 inet,int8>inet int2,int2>int2 int2,int4>int4 int2,int8>int8
  int4,date>date int4,int2>int4 int4,int4>int4 int4,int8>int8 int8,inet>inet int8,int2>int8 int8,int4>int8
  int8,int8>int8 interval,date>timestamp interval,interval>interval interval,time>time
  interval,timestamp>timestamp interval,timestamptz>timestamptz interval,timetz>timetz money,money>money
  numeric,numeric>numeric time,date>timestamp time,interval>time timestamp,interval>timestamp
  timestamptz,interval>timestamptz timetz,date>timestamptz timetz,interval>timetz
- ,float4>float4 ,float8>float8 ,int2>int2 ,int4>int4 ,int8>int8 ,interval>interval ,numeric>numeric
  date,date>int4 date,int4>date date,interval>timestamp float4,float4>float4 float4,float8>float8
  float8,float4>float8 float8,float8>float8 inet,inet>int8 inet,int8>inet int2,int2>int2 int2,int4>int4
  int2,int8>int8 int4,int2>int4 int4,int4>int4 int4,int8>int8 int8,int2>int8 int8,int4>int8 int8,int8>int8
  interval,interval>interval jsonb,text[]>jsonb jsonb,int4>jsonb jsonb,text>jsonb money,money>money
  numeric,numeric>numeric time,interval>time time,time>interval timestamp,interval>timestamp
  timestamp,timestamp>interval timestamptz,interval>timestamptz timestamptz,timestamptz>interval
  timetz,interval>timetz
* float4,float4>float4 float4,float8>float8 float4,money>money float8,float4>float8 float8,float8>float8
  float8,interval>interval float8,money>money int2,int2>int2 int2,int4>int4 int2,int8>int8 int2,money>money
  int4,int2>int4 int4,int4>int4 int4,int8>int8 int4,money>money int8,int2>int8 int8,int4>int8 int8,int8>int8
  int8,money>money interval,float8>interval money,float4>money money,float8>money money,int2>money
  money,int4>money money,int8>money numeric,numeric>numeric
/ float4,float4>float4 float4,float8>float8 float8,float4>float8 float8,float8>float8 int2,int2>int2
  int2,int4>int4 int2,int8>int8 int4,int2>int4 int4,int4>int4 int4,int8>int8 int8,int2>int8 int8,int4>int8
  int8,int8>int8 interval,float8>interval money,float4>money money,float8>money money,int2>money
  money,int4>money money,int8>money money,money>float8 numeric,numeric>numeric
% int2,int2>int2 int4,int4>int4 int8,int8>int8 numeric,numeric>numeric
^ float8,float8>float8 numeric,numeric>numeric
|/ ,float8>float8
||/ ,float8>float8
@ ,float4>float4 ,float8>float8 ,int2>int2 ,int4>int4 ,int8>int8 ,numeric>numeric
& bit,bit>bit inet,inet>inet int2,int2>int2 int4,int4>int4 int8,int8>int8
| bit,bit>bit inet,inet>inet int2,int2>int2 int4,int4>int4 int8,int8>int8
# bit,bit>bit int2,int2>int2 int4,int4>int4 int8,int8>int8
~ ,bit>bit ,inet>inet ,int2>int2 ,int4>int4 ,int8>int8 bpchar,text>bool name,text>bool text,text>bool
<< bit,int4>bit inet,inet>bool int2,int4>int2 int4,int4>int4 int8,int4>int8
>> bit,int4>bit inet,inet>bool int2,int4>int2 int4,int4>int4 int8,int4>int8
|| anycompatible,anycompatiblearray>anycompatiblearray anycompatiblearray,anycompatible>anycompatiblearray
  anycompatiblearray,anycompatiblearray>anycompatiblearray anynonarray,text>text bytea,bytea>bytea
  jsonb,jsonb>jsonb text,anynonarray>text text,text>text varbit,varbit>varbit
~~ bpchar,text>bool bytea,bytea>bool name,text>bool text,text>bool
!~~ bpchar,text>bool bytea,bytea>bool name,text>bool text,text>bool
~~* bpchar,text>bool name,text>bool text,text>bool
!~~* bpchar,text>bool name,text>bool text,text>bool
@> anyarray,anyarray>bool jsonb,jsonb>bool
<@ anyarray,anyarray>bool jsonb,jsonb>bool
&& anyarray,anyarray>bool inet,inet>bool
-> json,int4>json json,text>json jsonb,int4>jsonb jsonb,text>jsonb
->> json,int4>text json,text>text jsonb,int4>text jsonb,text>text
#> json,text[]>json jsonb,text[]>jsonb
#>> json,text[]>text jsonb,text[]>text
? jsonb,text>bool
?| jsonb,text[]>bool
?& jsonb,text[]>bool
"""

FUNCTIONS: Final = """
abs float4>float4 float8>float8 int2>int2 int4>int4 int8>int8 numeric>numeric
array_append anycompatiblearray,anycompatible>anycompatiblearray
array_cat anycompatiblearray,anycompatiblearray>anycompatiblearray
array_length anyarray,int4>int4
array_lower anyarray,int4>int4
array_ndims anyarray>int4
array_position anycompatiblearray,anycompatible,int4>int4 anycompatiblearray,anycompatible>int4
array_prepend anycompatible,anycompatiblearray>anycompatiblearray
array_upper anyarray,int4>int4
btrim bytea,bytea>bytea text,text>text text>text
cardinality anyarray>int4
ceil float8>float8 numeric>numeric
ceiling float8>float8 numeric>numeric
char_length bpchar>int4 text>int4
character_length bpchar>int4 text>int4
date_part text,date>float8 text,interval>float8 text,timestamptz>float8 text,timestamp>float8 text,timetz>float8
  text,time>float8
date_trunc text,interval>interval text,timestamptz,text>timestamptz text,timestamptz>timestamptz
  text,timestamp>timestamp
div numeric,numeric>numeric
extract text,date>numeric text,interval>numeric text,timestamptz>numeric text,timestamp>numeric
  text,timetz>numeric text,time>numeric
floor float8>float8 numeric>numeric
isfinite date>bool interval>bool timestamptz>bool timestamp>bool
jsonb_array_length jsonb>int4
jsonb_typeof jsonb>text
justify_days interval>interval
justify_hours interval>interval
justify_interval interval>interval
left text,int4>text
length bit>int4 bpchar>int4 bytea,name>int4 bytea>int4 text>int4
like bytea,bytea>bool name,text>bool text,text>bool
lower text>text
ltrim bytea,bytea>bytea text,text>text text>text
mod int2,int2>int2 int4,int4>int4 int8,int8>int8 numeric,numeric>numeric
notlike bytea,bytea>bool name,text>bool text,text>bool
octet_length bit>int4 bpchar>int4 bytea>int4 text>int4
position bit,bit>int4 bytea,bytea>int4 text,text>int4
replace text,text,text>text
reverse text>text
right text,int4>text
round float8>float8 numeric,int4>numeric numeric>numeric
rtrim bytea,bytea>bytea text,text>text text>text
sign float8>float8 numeric>numeric
split_part text,text,int4>text
sqrt float8>float8 numeric>numeric
starts_with text,text>bool
strpos text,text>int4
substr bytea,int4,int4>bytea bytea,int4>bytea text,int4,int4>text text,int4>text
substring bit,int4,int4>bit bit,int4>bit bytea,int4,int4>bytea bytea,int4>bytea text,int4,int4>text
  text,int4>text text,text,text>text text,text>text
timezone interval,timestamptz>timestamp interval,timestamp>timestamptz interval,timetz>timetz
  text,timestamptz>timestamp text,timestamp>timestamptz text,timetz>timetz
trunc float8>float8 numeric,int4>numeric numeric>numeric
upper text>text
"""


def entries(text: str) -> dict[str, list[str]]:
    """
    Read a list: the name, then its rows.
    """
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.strip().splitlines():
        words = line.split()
        if not line.startswith(" "):
            name, *words = words
        found.setdefault(name, []).extend(words)
    return found


def signatures(text: str) -> dict[str, tuple[tuple[tuple[str, ...], str], ...]]:
    """
    Read a list of operators or functions: for each name the argument types and the result type of each.
    """
    found = {}
    for name, rows in entries(text).items():
        split = [row.rpartition(">") for row in rows]
        found[name] = tuple((tuple(a for a in args.split(",") if a), result) for args, _, result in split)
    return found
