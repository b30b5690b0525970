// Part of our own declarations of Gloo; see rendezvous/store.h.
#pragma once
