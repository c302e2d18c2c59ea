"""The demo set: ten kinds of shape, drawn on the spot."""
import numpy as np
from numpy.typing import NDArray

CLASSES = ("disc","ring","bar","stripes","cross","grid","dots","arc","zigzag","pair")

def _sdf(kind, u, v):
    r = np.hypot(u, v)
    box = lambda a,b,w,h: np.maximum(np.abs(a)-w, np.abs(b)-h)
    if kind==0: return r-0.85
    if kind==1: return np.abs(r-0.72)-0.2
    if kind==2: return box(u,v,1.0,.28)
    if kind==3: return np.maximum(np.minimum(np.minimum(np.abs(v),np.abs(v-0.7)),np.abs(v+.7))-0.19, np.abs(u)-.9)
    if kind==4: return np.minimum(box(u,v,1.0,.24), box(u,v,.24,1.0))
    if kind==5: return np.maximum(np.minimum(np.abs(np.abs(u)-.45),np.abs(np.abs(v)-.45))-.16, np.maximum(np.abs(u),np.abs(v))-1.0)
    if kind==6: return np.minimum(np.hypot(np.abs(u)-.66,np.abs(v)-.66), r)-0.3
    if kind==7:
        t=np.abs(np.arctan2(v,u)); return np.maximum(np.abs(r-.75)-.22, (t-1.9)*r)
    if kind==8:
        w=np.abs(((u+1)%1.0)-.5)*1.6-.4; return np.maximum(np.abs(v-w)*.7-.2, np.abs(u)-1.0)
    if kind==9: return np.hypot(np.abs(u)-.6,v)-0.38

def demo_images(split, n=None, seed=0, size=16, smin=.30, smax=.48, place=0.12, noise=0.04, contrast=.35, turn=np.pi, gap=.25, wob=.05, chroma=1.):
    n = n or (5000 if split=="train" else 1000)
    g = np.random.default_rng([seed, split=="test"])
    labels = np.arange(n)%10; g.shuffle(labels)
    yy,xx = np.mgrid[0:size,0:size]; xx=(xx+.5)/size-.5; yy=(yy+.5)/size-.5
    out=np.empty((n,size,size,3),np.uint8)
    for k in range(10):
        idx=np.flatnonzero(labels==k); m=len(idx)
        s=g.uniform(smin,smax,m)[:,None,None]; a=g.uniform(-turn,turn,m)[:,None,None]
        cx,cy=(g.uniform(-place,place,m)[:,None,None] for _ in range(2))
        X,Y=xx[None]-cx,yy[None]-cy
        u=(X*np.cos(a)+Y*np.sin(a))/s; v=(-X*np.sin(a)+Y*np.cos(a))/s
        d=_sdf(k,u,v)*s*size
        cover=np.clip(.5-d,0,1)[...,None]
        lum=np.array([.299,.587,.114])
        sign=g.choice([-1,1],m)
        def colour(y):
            c=g.uniform(0,1,(m,3)); c=c-(c@lum)[:,None]  # zero-luminance chroma
            c/=np.abs(c).max(1,keepdims=True)
            room=np.minimum(np.where(c>0,(1-y[:,None])/np.maximum(c,1e-6),y[:,None]/np.maximum(-c,1e-6)).min(1),1)
            return y[:,None]+c*(room*chroma*g.uniform(.5,1,m))[:,None]
        fg=colour(.5+sign*gap+g.uniform(-wob,wob,m)); bg=colour(.5-sign*gap+g.uniform(-wob,wob,m))
        img=bg[:,None,None]*(1-cover)+fg[:,None,None]*cover
        img+=g.normal(0,noise,img.shape)
        out[idx]=np.clip(img*255,0,255).round()
    return out, labels.astype(np.int64), list(CLASSES)
